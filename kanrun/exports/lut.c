/* A trained model in integers, as C99 without floating point and without dependencies.

   void @_evaluate(const uint32_t x[@_INPUTS], @_output y[@_OUTPUTS]);

   maps codes to fixed-point numbers. An input's range below is cut into 2^@_INPUT_BITS - 1 equal steps: the code of a
   value is round((value - lowest) / (highest - lowest) * (2^@_INPUT_BITS - 1)); larger codes count as the largest one.
   An output is y / 2^places in the units of the data; of a classifier, the class is the place of the largest y.

   REPORT */

#include <stdint.h>

/* The model. */
