"""The sections of the page: each turns the data of a sweep into what page.html.j2 shows under one heading."""
