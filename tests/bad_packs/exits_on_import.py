import sys

print("this pack needs Python 2")
sys.exit(2)
