//! Folders of pictures: decoding, transforms, augmentation, loading.
