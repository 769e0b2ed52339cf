// For tests: small random checkpoints of any shape, in the test's temporary directory.
#ifndef CONCLAVE_MOE_MODEL_TEST_MODELS_H_
#define CONCLAVE_MOE_MODEL_TEST_MODELS_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace conclave {

// Keys of config.json and their values as JSON text.
using ConfigOverrides = std::map<std::string, std::string>;

// Makes a model of DeepSeek-V3's kind (4 layers, hidden 64, 16 experts in 4 groups, YaRN) with some of its settings
// changed, and returns its directory. `dtype` is bf16, f32 or fp8. Equal arguments give equal bytes.
absl::StatusOr<std::string> MakeTestModel(const ConfigOverrides& overrides, const std::string& dtype,
                                          uint64_t seed = 1);

// Renames a tensor inside model.safetensors. REQUIRES: both names are of the same length
absl::Status RenameTensor(const std::string& directory, const std::string& from, const std::string& to);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_TEST_MODELS_H_
