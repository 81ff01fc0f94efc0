"""Object stores, such as gs:// and s3://: whole objects are put and read, never appended to or renamed."""
