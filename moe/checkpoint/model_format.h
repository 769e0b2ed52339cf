// Recognises model directories whose weights are in a format that is not ours, to refuse them by name.
#ifndef CONCLAVE_MOE_CHECKPOINT_MODEL_FORMAT_H_
#define CONCLAVE_MOE_CHECKPOINT_MODEL_FORMAT_H_

#include <string>

#include "absl/status/status.h"

namespace conclave {

// Looks at file names (and the first bytes of a file given in a directory's place). OK: config.json is there, and
// model.safetensors or model.safetensors.index.json. NOT_FOUND: no such directory, or a file is missing, which is
// named. INVALID_ARGUMENT names the other format: GGUF, PyTorch .bin, or a quantisation of ModelOpt (NVFP4), AutoGPTQ
// or AutoAWQ that config.json does not mention.
absl::Status CheckModelFormat(const std::string& directory);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MODEL_FORMAT_H_
