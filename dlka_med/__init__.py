"""Medical image segmentation around Deformable Large Kernel Attention (D-LKA), in 2D and 3D."""

__version__ = "0.1.0"
