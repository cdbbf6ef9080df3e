# Sources of the kernels, for a GPU and for the emulator.
set(ops context_attention.cu segmented_linear_attention.cu segmented_positions.cu sparse_attention.cu)
set(layers embed.cu linear.cu residual_norm.cu star_layered.cpp)
list(TRANSFORM ops PREPEND ${CMAKE_CURRENT_LIST_DIR}/ops/)
list(TRANSFORM layers PREPEND ${CMAKE_CURRENT_LIST_DIR}/layers/)
set_directory_properties(PROPERTIES COMPILE_OPTIONS "") # those of a project round this one are not for kernels
