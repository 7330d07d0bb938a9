"""The command line: one verb a file; each calls one library function and adds reading, writing and progress."""
