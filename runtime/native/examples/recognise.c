/* Recognises one clip with the C interface: recognise BUNDLE JOINTS
 *
 * JOINTS is a file of float32 x, y, z (or x, y, score) of V joints a row, one person, as numpy.ndarray.tofile writes them. */
#include <stdio.h>
#include <stdlib.h>

#include "star_edge/star.h"

/* The rows of a file, [rows, V, 3]; null when it cannot be read. The caller frees them. */
static float *read_rows(const char *path, int64_t joints, int64_t *rows) {
    const size_t row = (size_t)joints * 3 * sizeof(float);
    FILE *file = fopen(path, "rb");
    if (file == NULL) return NULL;
    long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    float *values = size > 0 && (size_t)size % row == 0 ? malloc((size_t)size) : NULL;
    rewind(file);
    if (values != NULL && fread(values, (size_t)size, 1, file) != 1) {
        free(values);
        values = NULL;
    }
    fclose(file);
    *rows = values != NULL ? (int64_t)((size_t)size / row) : 0;
    return values;
}

/* Features of one person's rows, then logits [K]. */
static star_status recognise(const star_model *model, const star_model_info *info, const float *joints, int64_t rows,
                             float *logits) {
    star_context *context = NULL;
    const int64_t cu_seqlens[2] = {0, rows};
    float *features = malloc((size_t)(rows * info->joints * info->channels) * sizeof(float));
    star_status status = features != NULL ? star_features(model, joints, &rows, 1, 1, features) : STAR_OUT_OF_MEMORY;
    if (status == STAR_OK) status = star_context_create(model, 0, &context);
    if (status == STAR_OK) status = star_run(context, features, cu_seqlens, 1, logits);
    star_context_free(context);
    free(features);
    return status;
}

static int64_t best_of(const float *logits, int64_t classes) {
    int64_t best = 0;
    for (int64_t label = 1; label < classes; ++label)
        if (logits[label] > logits[best]) best = label;
    return best;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: recognise BUNDLE JOINTS\n");
        return 2;
    }
    star_model *model = NULL;
    star_model_info info;
    star_status status = star_model_load(argv[1], STAR_PRECISION_DEFAULT, STAR_ISA_AUTO, &model);
    if (status == STAR_OK) status = star_model_describe(model, &info);
    if (status != STAR_OK) {
        fprintf(stderr, "%s\n", star_last_error());
        return 1;
    }
    int64_t rows = 0;
    float *joints = read_rows(argv[2], info.joints, &rows);
    float *logits = malloc((size_t)info.classes * sizeof(float));
    if (joints == NULL || logits == NULL) {
        fprintf(stderr, "%s is no file of rows of %lld joints\n", argv[2], (long long)info.joints);
        status = STAR_IO;
    } else {
        status = recognise(model, &info, joints, rows, logits);
        if (status == STAR_OK)
            printf("%s (%s)\n", star_model_class_name(model, best_of(logits, info.classes)), info.products);
        else
            fprintf(stderr, "%s\n", star_last_error());
    }
    free(logits);
    free(joints);
    star_model_free(model);
    return status == STAR_OK ? 0 : 1;
}
