"""What each entry does once its flags are read: here the heavy libraries are imported."""
