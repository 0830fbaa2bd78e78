from rmrkd_cli.app import main

main()
