"""What a checkpoint holds, in a form that any ZeRO stage and number of processes can load."""
