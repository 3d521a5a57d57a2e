"""What label tools write for classification, and our own manifest: one module for each format, all in `registry`.

They are read and written here because the library for it, Datumaro (MIT), knows neither Label Studio nor FiftyOne, and
asks for older releases of OpenCV, Pillow and pyarrow than ours, 560 MB with what it needs.
"""
