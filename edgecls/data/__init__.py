"""Images on their way in: reading, data sets, splits and batches."""
