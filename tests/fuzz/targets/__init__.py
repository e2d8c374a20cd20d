"""One module for each room of the code that reads what others have written."""
