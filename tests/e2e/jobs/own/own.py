answer = "as it was"
