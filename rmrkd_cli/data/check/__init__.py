"""What is wrong with a data set: all of it (`check`), or what can be known in two seconds (`quick_check`)."""

from rmrkd_cli.data.check.report import Report as Report
from rmrkd_cli.data.check.report import SplitReport as SplitReport
from rmrkd_cli.data.check.report import check as check
from rmrkd_cli.data.check.report import quick_check as quick_check
