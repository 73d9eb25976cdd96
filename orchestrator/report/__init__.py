"""What a researcher reads: tables in the terminal and, from the same effects, the page. No torch, no Ray, no server."""
