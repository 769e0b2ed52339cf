// The model that ships, for tests of shards.
#ifndef CONCLAVE_EXPERT_SERVICE_TEST_MODEL_H_
#define CONCLAVE_EXPERT_SERVICE_TEST_MODEL_H_

#include <string>

#include "moe/checkpoint/checkpoint.h"

namespace conclave {

// Its directory, free of the links that a test is started with.
std::string DemoModelDirectory();
// Opened once for the whole test.
const Checkpoint& DemoModel();

}  // namespace conclave

#endif  // CONCLAVE_EXPERT_SERVICE_TEST_MODEL_H_
