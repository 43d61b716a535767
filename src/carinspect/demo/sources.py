"""Owns the text of the demo's sources.yaml, which is also the example from which people learn the format."""

SOURCES_YAML = """\
# What lies in this data root, and what it means. Copy this file to describe your own.
#
# format: coco     one or more COCO JSON files beside their photos (Roboflow exports: train/, valid/, test/)
#         folders  one folder for each class, with or without train/val/test above
#         csv      a table with image_path and any of the label columns
# judges: only for coco: the tasks (clean, cleanliness, damage, weather) that a person decided on EVERY photo of the source. A photo without
#         annotations is then clean, or undamaged. What is not judged stays blank and teaches nothing.
# categories: EVERY category or class folder, and what it means:
#         scratch dent rust broken missing glass paint   damage, weighed by convert_annotations.damage_severity in params.yaml
#         dirt mud                                       dirt, weighed by convert_annotations.dirt_severity
#         vehicle                                        the car; areas are taken as shares of it
#         {clean: 1} {damaged: 0} {weather: fog} ...     labels
#         ignore                                         nothing
sources:
  # A body shop's export: polygons, categories as somebody typed them, augmented copies in every split.
  - name: body_shop
    format: coco
    judges: [damage, cleanliness, clean]
    # IMG_0123_jpg.rf.<hash>.jpg: what stands before .rf. is the photo that its copies come from. This is the default.
    family_pattern: '^(.+?)[._](?:jpe?g|png|webp)\\.rf\\.[0-9a-f]{6,}'
    categories:
      Car-Damage: ignore        # the supercategory's row
      car: vehicle
      scracth: scratch
      dunt: dent
      rust: rust
      broken: broken
      dirt: dirt
      mud: mud

  # An insurer's set: boxes without polygons, Turkish names, one folder without splits. Dirt was not looked at.
  - name: boxes
    format: coco
    judges: [damage]
    categories:
      arac: vehicle             # car
      cizik: scratch
      gocuk: dent
      kirik: broken
      pas: rust

  # A car wash: clean or dirty, and nothing else.
  - name: wash
    format: folders
    categories:
      clean: {clean: 1}
      dirty: {clean: 0}

  # Frames sorted by weather.
  - name: dashcam
    format: folders
    categories:
      clear day: {weather: clear}
      rain: {weather: rain}
      foggy: {weather: fog}
      snow: {weather: snow}
      sand: ignore              # a class that we have no question for

  # A fleet's inspections: several photos of each vehicle, all labels, some blank.
  - name: fleet
    format: csv
    path: fleet/labels.csv
    family_column: vehicle_id   # photos with the same value stay in one split
"""
