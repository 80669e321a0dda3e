Command exited with non-zero status 1
7232
