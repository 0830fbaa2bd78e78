"""`rmrkd cache-teacher`: run teachers once over the training images, and store what they give."""
