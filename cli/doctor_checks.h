// Looks at this machine for what Conclave needs or profits from. Reads /proc, /sys and limits; changes nothing.
#ifndef CONCLAVE_CLI_DOCTOR_CHECKS_H_
#define CONCLAVE_CLI_DOCTOR_CHECKS_H_

#include <string>
#include <vector>

namespace conclave {

// kOk: as it should be. kAdvice: works, but `fix` would make it faster or larger. kBlocked: `conclave up` would fail.
enum class Verdict { kOk, kAdvice, kBlocked };

// One finding about the machine.
struct Finding {
  std::string name;  // "cpu", "memory", …
  Verdict verdict = Verdict::kOk;
  std::string value;  // what was found, in words
  std::string fix;    // what to do; empty where nothing needs doing
};

// All findings, in the order in which they are shown. `binary_directory`: where the conclave executable lies.
std::vector<Finding> ExamineMachine(const std::string& binary_directory);

}  // namespace conclave

#endif  // CONCLAVE_CLI_DOCTOR_CHECKS_H_
