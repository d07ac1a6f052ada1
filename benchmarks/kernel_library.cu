#include "../tests/emulation/functions.h"
