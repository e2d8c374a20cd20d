"""A folder for ``sys.path``, with a stand-in for the vendor's ``axengine``."""
