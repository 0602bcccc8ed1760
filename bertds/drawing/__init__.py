"""How a case is drawn: its runs read, tables and plots made."""
