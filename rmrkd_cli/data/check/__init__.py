"""What is wrong with a data set: all of it (`check`), or what can be known in two seconds (`quick_check`)."""

from rmrkd_cli.data.check.check import Report as Report
from rmrkd_cli.data.check.check import SplitReport as SplitReport
from rmrkd_cli.data.check.check import check as check
from rmrkd_cli.data.check.check import quick_check as quick_check
