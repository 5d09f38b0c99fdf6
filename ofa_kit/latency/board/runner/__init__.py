"""What measures a kit on the board. These files are copied as they are into the kit and import each other relatively:
Python 3.8, the standard library, numpy and onnxruntime must do for them.
"""
