// What a model is called where nobody says otherwise.
#ifndef CONCLAVE_MOE_DAEMON_MODEL_NAME_H_
#define CONCLAVE_MOE_DAEMON_MODEL_NAME_H_

#include <string>

namespace conclave {

// `model` is a --model flag, `directory` what it was resolved to: the directory's own name for a path, "org/name"
// without its revision for a model of the Hugging Face cache.
std::string ModelName(const std::string& model, const std::string& directory);

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_MODEL_NAME_H_
