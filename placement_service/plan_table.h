// A round's findings and plan as a table, for people.
#ifndef CONCLAVE_PLACEMENT_SERVICE_PLAN_TABLE_H_
#define CONCLAVE_PLACEMENT_SERVICE_PLAN_TABLE_H_

#include <string>

#include "placement_service/controller.h"

namespace conclave {

// Lines that end in line feeds: each shard with what it holds, each layer with its balance, each move.
std::string PlanTable(const RoundReport& report);

}  // namespace conclave

#endif  // CONCLAVE_PLACEMENT_SERVICE_PLAN_TABLE_H_
