"""The status page: how the node is doing, live, for whoever opens its address in a browser."""

from bridges.http.page.files import routes as file_routes
from bridges.http.page.files import serve_files
from bridges.http.page.page import Page, open_page
from bridges.http.page.routes import ENDPOINTS, PAGE, routes

__all__ = ["ENDPOINTS", "PAGE", "Page", "file_routes", "open_page", "routes", "serve_files"]
