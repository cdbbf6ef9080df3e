# TENSORRT_INCLUDE_DIR: where NvInferRuntime.h is, false where it is nowhere.
find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h PATHS /usr/include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu
  DOC "Folder of TensorRT's headers")
