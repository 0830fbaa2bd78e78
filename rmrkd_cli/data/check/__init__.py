"""Find the errors of a data set: all of them (`check_dataset`), or those that two seconds show (`quick_check`)."""

from rmrkd_cli.data.check.dataset_check import DatasetReport as DatasetReport
from rmrkd_cli.data.check.dataset_check import SplitReport as SplitReport
from rmrkd_cli.data.check.dataset_check import check_dataset as check_dataset
from rmrkd_cli.data.check.dataset_check import quick_check as quick_check
