# Sources of the kernels, for a GPU and for the emulator.
set(ops context_attention.cu segmented_linear_attention.cu segmented_positions.cu sparse_attention.cu)
set(models star_model.cu star_weights.cpp layers/embed.cu layers/linear.cu layers/residual_norm.cu layers/star_layered.cpp)
list(TRANSFORM ops PREPEND ${CMAKE_CURRENT_LIST_DIR}/ops/)
list(TRANSFORM models PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
set_directory_properties(PROPERTIES COMPILE_OPTIONS "") # those of a project round this one are not for kernels
