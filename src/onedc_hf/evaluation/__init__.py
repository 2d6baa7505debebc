"""Measuring: metrics, classical codecs at equal bytes, comparison sheets, and the Kodak table.

metrics/      one metric a file; `METRICS` lists them with net and direction
classical.py  JPEG, WebP, AVIF (and JPEG XL where its plug-in is installed) at the size nearest to a target
spectrum.py   is there a grid in the picture that the original does not have?
sheet.py      original | OneDC | JPEG | WebP | AVIF as one PNG
kodak.py      a model over a folder of pictures, as JSON; tables.py turns that JSON into the README's table

Every rate is that of a real file that was really decoded: bpp = 8 x bytes of the file / pixels of the picture.
"""
