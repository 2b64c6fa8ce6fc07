#include <rora/core/low_rank_linear_inl.h>
