#include <rora/core/dora_norm_inl.h>
#include <rora/core/dropout_inl.h>
#include <rora/core/gradient_buffer_inl.h>
#include <rora/core/linear_weight_inl.h>
#include <rora/core/low_rank_products_inl.h>
#include <rora/core/sum_of_products_inl.h>
