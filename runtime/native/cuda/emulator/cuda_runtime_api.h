// Stands in for CUDA's header where kernels run on the processor: the names that interfaces of this folder need.
#pragma once

typedef enum cudaError { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 } cudaError_t;

typedef struct CUstream_st *cudaStream_t;
