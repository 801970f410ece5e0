"""What people read: scores as one HTML page, and the table of a paper on colorization.

image_measures: colorfulness, PSNR, SSIM, LPIPS and FID of an image beside its original
judgment: images judged at once, for the page of demo.py
page: what the HTML page shows; its template is report.html.jinja
paper_table: methods beside the originals, with intervals and paired differences
statistics: the numbers of the page: methods against each other, distributions, people against prediction
thumbnails: the images of the page, with surprise maps and objects that look wrong
"""
