"""The command line of Zoo: parse, build a request, call the library, render."""
