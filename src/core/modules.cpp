#include <rora/core/adapter_inl.h>
#include <rora/core/initializer_inl.h>
#include <rora/core/low_rank_adapter_inl.h>
#include <rora/core/projection_inl.h>
#include <rora/core/rora_linear_inl.h>
