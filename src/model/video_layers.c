#include "model/video_layers.h"

#include <math.h>

void fb_layer_norm(const float *x, const float *weight, const float *bias, double eps, size_t size,
                   float *y) {
    double sum = 0.0, squares = 0.0;
    for (size_t i = 0; i < size; i++)
        sum += (double)x[i];
    double mean = sum / (double)size;
    for (size_t i = 0; i < size; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    double factor = 1.0 / sqrt(squares / (double)size + eps);
    for (size_t i = 0; i < size; i++) {
        float normed = (float)(((double)x[i] - mean) * factor);
        y[i] = weight ? normed * weight[i] + bias[i] : normed;
    }
}

void fb_modulate(const float *shift, const float *scale, size_t size, float *x) {
    for (size_t i = 0; i < size; i++)
        x[i] = x[i] * (1.0f + scale[i]) + shift[i];
}

void fb_add_gated(const float *y, const float *gate, size_t size, float *x) {
    for (size_t i = 0; i < size; i++)
        x[i] += y[i] * gate[i];
}

void fb_silu(float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        x[i] = x[i] / (1.0f + expf(-x[i]));
}

void fb_gelu_tanh(float *x, size_t count) {
    const float root = 0.7978845608028654f; /* sqrt(2 / pi) */
    for (size_t i = 0; i < count; i++)
        x[i] = 0.5f * x[i] * (1.0f + tanhf(root * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

void fb_time_embedding(double t, size_t size, double *embedding) {
    size_t half = size / 2;
    for (size_t i = 0; i < half; i++) {
        double angle = t * pow(10000.0, -(double)i / (double)half);
        embedding[i] = cos(angle);
        embedding[half + i] = sin(angle);
    }
}
