"""How `trtflow up` tells the processes that it forks which YAML, store and cache they serve."""

FILE, STORE, CACHE = "TRTFLOW_FILE", "TRTFLOW_SERVED_STORE", "TRTFLOW_CACHE"
