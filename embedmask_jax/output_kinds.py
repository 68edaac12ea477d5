"""The kinds of files that predictions can become: the values of --save."""

OVERLAY = 'overlay'
LABEL_MAP = 'label-map'
INSTANCES = 'instances'
CROPS = 'crops'
COCO = 'coco'
GEOJSON = 'geojson'
LABELME = 'labelme'

# Kind -> what is written; NAME is that of the image, without its suffix.
OUTPUT_KINDS = {
  OVERLAY: 'NAME.png: masks, boxes, names and scores drawn over the image',
  LABEL_MAP: 'label-map/NAME.png: 16-bit, number of the instance at every pixel, or 0',
  INSTANCES: 'instances/NAME/001-CLASS.png ...: masks in black and white',
  CROPS: 'crops/NAME/001-CLASS.png ...: every object cut out, with alpha',
  COCO: 'instances.json: a COCO data set of all images, with scores',
  GEOJSON: 'geojson/NAME.geojson: polygons with holes, in pixels of the image',
  LABELME: 'labelme/NAME.json: polygons, to be corrected in labelme',
}
