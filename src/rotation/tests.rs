//! Rotation as stories and properties, against a cluster in memory.
