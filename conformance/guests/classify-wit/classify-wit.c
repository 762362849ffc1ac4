/* `classify` as a component. */
#include "wasi_nn_wit.h"

#include "../classify/classify.c"
