"""From a trained network and a case to a label map on the scanner's grid."""
