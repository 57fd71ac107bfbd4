"""The verb `cascade`: several finished runs become one."""
