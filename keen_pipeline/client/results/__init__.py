"""The transfer of results: opening a URL, its body, a fresh URL once it has died."""
