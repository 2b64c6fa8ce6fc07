#include <rora/training/trainer.h>
