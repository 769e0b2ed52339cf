// placement_service --shard HOST:PORT …: moves experts between shards to where the load is, as a process.
#include "moe/daemon/flags.h"
#include "placement_service/placement_service.h"

int main(int argc, char** argv) {
  conclave::PlacementServiceOptions options;
  conclave::Flags flags("placement_service", "Gives experts that get many tokens more shards, while they serve.");
  options.AddTo(flags);
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return conclave::ExitWith("placement_service", parsed.status(), 2);
  if (!*parsed) return 0;
  if (const absl::Status valid = options.Validate(); !valid.ok()) {
    return conclave::ExitWith("placement_service", valid, 2);
  }
  return conclave::ExitWith("placement_service", conclave::RunPlacementService(options), 1);
}
