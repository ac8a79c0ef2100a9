"""What a run leaves on disk: its trained weights over those of its base, and whether a failed write is the disk's fault."""
