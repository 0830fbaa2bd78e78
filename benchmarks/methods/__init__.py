"""Every distillation method under the same conditions, and what each of them costs."""
