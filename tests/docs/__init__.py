"""The pages of docs/, and the README: their blocks run, their commands exist, their links lead somewhere."""
